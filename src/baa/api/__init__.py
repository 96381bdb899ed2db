"""The contract: what programs and clients say to one another. Imported by all, imports nothing of ours."""
