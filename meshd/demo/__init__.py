"""`meshd demo`: a small mesh of real parts on this machine, with traffic through it."""
