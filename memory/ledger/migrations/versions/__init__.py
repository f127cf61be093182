"""One module a revision, named by its number (`v0001_...`)."""
