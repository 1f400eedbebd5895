"""The command line: one small file per verb, no logic; each verb is imported only when it is called."""
