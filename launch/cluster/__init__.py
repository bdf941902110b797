"""Jobs: submitted, followed, cancelled."""
