"""Rendering for clients: HTTP interfaces and a RunPod worker over one queue, with an engine process for each device.

Takes: model folders that have been converted and verified, a `Setup`, and requests from HTTP or RunPod clients.
Gives: `answers.Rendered` for each picture, and each interface's own form of it; a coded error where there is no picture.
Never: imports torch in the server's process, opens an address or a path that a client names, or rebuilds an object other
than plain data from what another process sent.
"""
