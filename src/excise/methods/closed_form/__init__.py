"""Methods that solve for the change of weights in closed form."""
