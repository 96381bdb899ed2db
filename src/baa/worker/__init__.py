"""What runs tasks on a node: takes attempts from the queue, and carries each of them to its end."""
