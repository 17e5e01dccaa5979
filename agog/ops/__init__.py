import agog.ops.elementwise  # noqa: F401
import agog.ops.movement  # noqa: F401
import agog.ops.joining  # noqa: F401
