"""Several learners: how they mix their weights, and what that does to learning."""
