"""What is a version? Repos, the graph of versions, trees, transactions and the log."""
