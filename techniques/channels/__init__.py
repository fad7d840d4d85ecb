"""Which channels can only go together, found by sending labels of channels through a network (`propagate`), and how they go."""
