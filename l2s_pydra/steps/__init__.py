"""Steps from files to files: plain functions that know no engine."""
