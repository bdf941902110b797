"""Trivial baselines on frozen features: what any method must stand beside."""
