"""One file per published method, in families; the file's name is the method's name everywhere."""
