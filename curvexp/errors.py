"""The errors that a person's own input causes; everything else that is raised is a defect."""


class ConfigError(ValueError):
    """A value that the user gave is wrong.

    The message states the value got, what was expected, and the config key to change. The command line prints it
    without a traceback and exits with code 2.
    """


class Unsupported(ConfigError):
    """A combination that has no meaning, such as batch normalization on a quadratic.

    An error in a single run; in a sweep the job is recorded as `skipped`, with this message as its reason.
    """
