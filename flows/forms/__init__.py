"""What each flow may be told: one model a flow, the form in the Prefect UI and the help of the command line.

None of them imports Prefect: a command refuses what is wrong before it starts a server.
"""
