"""What the programs of a fleet share: the leader's lease and the nodes. Only this opens its file."""
