// Command composetest is what `make compose-test` runs: the platform of docker-compose.yml, one container per target,
// does its main job while parts of it are killed and restarted.
//
//  1. The demo's scenario through the edge: an upstream on this machine is mirrored, every byte and listing compared;
//     packages are uploaded into a hosted channel.
//  2. Three sync workers. The one that runs a sync is killed with SIGKILL while it downloads; another takes the job over
//     when the lease has run out, and the mirror is as whole as if nothing had been.
//  3. All containers are stopped and started: both channels, the finished job and the administrator's key are still there.
//
// scripts/compose.sh sets the stage (images, passwords, a project name of its own) and clears it away.
package main
