"""Small programs that tests run as meshed commands."""
