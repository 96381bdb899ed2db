"""A node as it is installed: services described, rendered, run by a service manager, and checked."""
