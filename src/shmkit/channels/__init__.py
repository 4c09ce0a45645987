"""Messages through memory: channels on a segment that describes itself."""
