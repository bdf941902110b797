"""Ranks and steps: the world and its collectives, DDP or DeepSpeed behind one interface, checkpoints."""
