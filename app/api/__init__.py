"""HTTP, and nothing else: routes per resource, bodies in and out, the one table of errors."""
