//! The RPC methods.

use serde::Deserialize;
use serde_json::{Value, json};
use spdk_plugin::module::vbdev;
use spdk_plugin::rpc;
use spdk_plugin::rpc::RpcError;

use crate::Crypt;
use crate::config::Config;

/// A key that is no good is refused now, also when the base is yet to come.
#[rpc(name = "bdev_crypt_create")]
async fn create(params: Config) -> Result<String, RpcError> {
    let name = params.name.clone();
    params.key()?;
    vbdev::create::<Crypt>(params).await?;
    Ok(name)
}

#[derive(Deserialize)]
struct Delete {
    name: String,
}

#[rpc(name = "bdev_crypt_delete")]
async fn delete(params: Delete) -> Result<bool, RpcError> {
    vbdev::delete::<Crypt>(&params.name).await?;
    Ok(true)
}

/// What is there and what waits for its base.
#[rpc(name = "bdev_crypt_get_bdevs")]
async fn list() -> Result<Vec<Value>, RpcError> {
    let listed = vbdev::list::<Crypt>().into_iter().map(|vbdev| {
        let Config { name, base_bdev_name, cipher, key_name, key_file, .. } = &*vbdev.config;
        json!({
            "name": name,
            "base_bdev_name": base_bdev_name,
            "cipher": cipher,
            "key_name": key_name,
            "key_file": key_file,
            "ready": vbdev.bdev.is_some(),
        })
    });
    Ok(listed.collect())
}
