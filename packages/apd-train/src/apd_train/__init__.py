"""Training of asynchronous diffusion models on Lightning Fabric."""

from ._batches import Batch as Batch, Batches as Batches
from ._config import (
    ConfigError as ConfigError,
    TrainConfig as TrainConfig,
    asynchronous as asynchronous,
)
from ._data import (
    Animals28 as Animals28,
    DataError as DataError,
    DataSource as DataSource,
    ImageFolder as ImageFolder,
    ImageSet as ImageSet,
    hold_out as hold_out,
    load_animals28 as load_animals28,
    load_folder as load_folder,
)
from ._ema import Ema as Ema
from ._error_head import fit_error_head as fit_error_head
from ._fit import (
    DivergedError as DivergedError,
    Progress as Progress,
    Trained as Trained,
    fit as fit,
)
from ._generate import Generated as Generated, generate as generate
from ._launch import launch as launch
from ._pictures import hide as hide, picture_grid as picture_grid, to_image as to_image
from ._run_folder import (
    RunFolder as RunFolder,
    RunFolderError as RunFolderError,
    read_metrics as read_metrics,
)
