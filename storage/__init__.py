"""Bytes on disk: registry, catalogues, segments, checks. Knows no HTTP and no Faiss."""
