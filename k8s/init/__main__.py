"""`python -m k8s.init`."""

from k8s.init.main import main

main()
