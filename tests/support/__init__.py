"""What tests share: a loop to run on, waiting with a deadline, free ports, programs to talk to."""
