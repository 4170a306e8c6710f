"""Does it matter? A benchmark asked again with something taken away, and what that changes."""
