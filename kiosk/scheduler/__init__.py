"""The companion scheduler: the right virtual nodes for the batch system's demand."""
