"""The life of collections: writing, views, search, background work. Knows no HTTP."""
