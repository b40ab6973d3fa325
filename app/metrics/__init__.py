"""What the server counts of itself: kept by every process, answered by any worker."""
