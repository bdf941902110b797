"""Patches by id, straight from the tars: plan, fetch, cache, decode."""
