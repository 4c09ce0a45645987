"""PagedFile: a file of any size through a few pages of memory."""
