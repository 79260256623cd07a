"""A real tritonserver on this machine: the runtimes that run artifacts, the backends that serve them, and the launcher."""
