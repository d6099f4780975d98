"""Reading what other programs write: files, the names they use, and the changes of weights they hold."""
