"""What executes tasks on a node: for now it registers the node, keeps it alive and drains."""
