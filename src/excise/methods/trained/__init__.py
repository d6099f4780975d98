"""Methods that train the change of weights."""
