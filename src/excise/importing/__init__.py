"""Import results of other programs: read their files, translate their names, compute the change of each weight."""
