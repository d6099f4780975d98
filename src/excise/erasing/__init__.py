"""The main job: a request in, an edit out; and what builds on it."""
