"""The warm engine: a server process for each model and device, started by the first job that needs it, and its client.

Takes: a verified model folder, a device of the run, and a request as JSON; the lease of the run that the engine works for.
Gives: the picture's PNG in its file, whole or not at all, its facts, and a line in the job's log.
Never: imports anything slow in the client, listens anywhere but on a private Unix socket, or outlives all of its leases.
"""
