"""The verbs of the command line that are about a cluster; `meshd.cli.verbs` names them."""
