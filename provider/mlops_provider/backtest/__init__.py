"""What retraining policies would have been worth on a model's own history; nothing is written to the ledger or to MLflow."""
