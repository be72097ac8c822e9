"""What people with an operator's role do to logs: freeze, continue, adopt, rotate, reconcile."""
