"""SurgUn, and the parts that only it uses."""
