"""What every package stands on: files, claims, processes, hashing, secrets, sockets, text, YAML, receipts.

Takes and gives paths, bytes and plain values. Never knows a picture, a checkpoint or a server.
"""
