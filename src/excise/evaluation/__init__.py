"""Protocol -> images -> judge -> metrics."""
