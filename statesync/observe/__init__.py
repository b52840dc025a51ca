"""What operators are told of a running system. Nothing here prints or changes anything."""
