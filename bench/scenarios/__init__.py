"""The scenarios, a file each: what is sent, and the configuration of every contender."""
