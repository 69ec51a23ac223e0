# Activates the environment that this file lies in: source it, do not run it.
set -gx CONDA_PREFIX (dirname (cd (dirname (status -f)); and pwd))
set -gx CONDA_DEFAULT_ENV $CONDA_PREFIX
set -gx CONDA_SHLVL 1
set -g _conda_pack_old_path $PATH
set -gx PATH $CONDA_PREFIX/bin $PATH
@EXPORT@for script in $CONDA_PREFIX/etc/conda/activate.d/*.fish
    source $script
end

function deactivate -d 'Undo activate'
    for script in $CONDA_PREFIX/etc/conda/deactivate.d/*.fish
        source $script
    end
    set -gx PATH $_conda_pack_old_path
@UNSET@    set -e _conda_pack_old_path
    set -e CONDA_PREFIX
    set -e CONDA_DEFAULT_ENV
    set -e CONDA_SHLVL
    functions -e deactivate
end
