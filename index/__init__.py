"""NumPy arrays in, row numbers and distances out. Knows no HTTP and no catalogue."""
