"""Capture: connections of this host's processes, led to its proxy by the kernel without their knowing.

    plan       what is to be captured, as values
    table      that as the text of one nftables table; pure
    slices     where systemd's slices are among control groups
    nft        the program that puts a table in force, and says what is
    generation whether somebody else changed rules meanwhile
    keeper     what the agent does so that it stays in force
    units      what systemd says of a unit, and why it cannot be meshed
    injection  the files that mesh a unit, and their removal
    ground     what a host must have for it

What becomes of a captured connection is the proxy's affair; which process made it is found by `meshd.agent`.
"""
