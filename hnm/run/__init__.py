"""What a command works with: the study, the session, phases, the journal, heartbeats, MLflow."""
