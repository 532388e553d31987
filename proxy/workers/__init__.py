"""More cores: several processes of the proxy, and the master that owns their listening sockets.

    master      starts workers and starts them again, binds, answers the admin port, says ready, hands over
    worker      the proxy as it is alone, but for the sockets that it asks for and the admin port that it has not

With one worker there is no master and nothing of this is imported.
"""
