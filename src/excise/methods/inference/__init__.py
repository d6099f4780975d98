"""Methods that steer each generation and change no weight."""
